"""6 spike: trained float networks to spiking ones (`convert`), neurons, input codings, and what happens over time (`unroll`)."""
