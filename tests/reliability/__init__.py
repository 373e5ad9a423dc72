"""Promises about failures, each with a short form in the tests and a long one in the system tests."""
