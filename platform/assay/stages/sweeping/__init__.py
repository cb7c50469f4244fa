"""The parts of the stage `sweep`: its trials, and which of them is trained when."""
