"""Adapters: one store each, behind one small contract."""
