"""Offline work: learning from recordings and building the models that the live path runs."""
