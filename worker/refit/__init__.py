"""Right factors made anew, layer after layer, for what the layers before them now give."""
