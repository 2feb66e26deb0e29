"""How weights speak: one port, its bodies, sampling and grammar."""
