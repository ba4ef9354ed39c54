"""A fleet of devices that are not there, to rehearse roll-outs with."""
