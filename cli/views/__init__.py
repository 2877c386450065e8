"""How the commands show their results on a terminal."""
