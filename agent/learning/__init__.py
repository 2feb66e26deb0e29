"""How weights learn: data, training, gate, composition."""
