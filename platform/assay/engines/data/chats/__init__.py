"""How a model's chats are written, and which of their characters it must write itself."""
