"""Time and memory of whole processes, side by side with what others take and with what the machine can do."""
