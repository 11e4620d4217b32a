"""`rankpress doctor`: looks at the installation, the data folder and the service, and says what
is wrong and what to do about it. Nothing is changed, and no folder is made."""
