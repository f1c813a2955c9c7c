"""How the fitted numbers come about: dataset readers, fits, evaluation. Not part of the installed package."""
