"""Pure decisions that both backends share; only :mod:`gate` touches the event loop."""
