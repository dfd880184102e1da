"""What rewrites this repository: results, tables, figures. No part of the installed package."""
