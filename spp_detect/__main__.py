"""`python -m spp_detect` does what `spp-detect` does."""

from spp_detect.cli import main

main()
