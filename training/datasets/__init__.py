"""Data sets with truth behind one interface: synthetic recordings, HanCo, FreiHAND."""
