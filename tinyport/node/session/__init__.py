"""A session: from what was asked for to the user's process, with what stands in for scp there."""
