"""Scripts that build the embedded default face basis from the CC0 MakeHuman assets. Not part of the installed package."""
