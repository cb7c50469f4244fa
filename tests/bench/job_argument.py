"""The one argument of the programs that `bench_train.py` starts. It imports nothing heavy: their
start is measured."""

import argparse


def job_of_arguments(description: str | None) -> str:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("job", help="a TrainingJob as JSON")
    return str(parser.parse_args().job)
