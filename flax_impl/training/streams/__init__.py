"""Trainings on tables that are larger than memory."""
