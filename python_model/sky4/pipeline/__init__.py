"""One request, one model folder, one function that makes the clip. Import the modules: nothing is loaded here."""
