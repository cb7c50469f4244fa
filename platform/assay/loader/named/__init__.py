"""What a spec names: files, packages, chat templates, labels and schemas."""
