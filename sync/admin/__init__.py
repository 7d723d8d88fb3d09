"""Operations that a person asks for: status, provenance, comparison of files, decisions and uninstalling."""
