"""Several processes at one piece of work: where they meet, what they tell one another, how a sequence is shared out."""
