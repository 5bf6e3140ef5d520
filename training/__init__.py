"""Everything a maker runs: training, adaptation and their data. Imports sharingan_hub, never the other way round."""
