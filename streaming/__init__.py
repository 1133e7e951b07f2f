"""Fused hands on the wire: schema, publisher, subscriber. Needs numpy, pyzmq and msgpack only."""
