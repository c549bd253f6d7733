"""Campaign documents to begin from; `orionflow campaign template` prints them."""
