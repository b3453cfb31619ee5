"""Films from shot lists: what is made, what is kept, how it is joined. Import the modules: nothing is loaded here."""
