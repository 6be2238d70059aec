"""Where the quantised layers take their place in other libraries."""
