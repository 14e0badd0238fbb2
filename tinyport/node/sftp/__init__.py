"""The SFTP server: a process of the user's, with the standard library alone."""
