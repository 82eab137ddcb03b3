"""All notebooks as one static site that needs no network: what ``make report`` makes."""
