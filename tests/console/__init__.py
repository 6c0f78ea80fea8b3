"""The console in Chromium, on a real cluster of three cells."""
