"""Open data by name: the drivers and readers behind the catalogues, and the catalogues themselves."""
