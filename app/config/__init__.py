"""Configuration: YAML files with line numbers, checked by JSON Schema, parsed once into frozen values."""
