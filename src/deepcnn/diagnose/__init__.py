"""Why a network does not learn: what is measured, what is normal, the likely cause, what to do."""
