"""Avatars that answer: sessions in real time on one device."""
