"""What the library is compared with: a plain implementation, and the published package."""
