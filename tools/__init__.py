"""The command line of mycomesh, with its terminal views, demo, benchmarks and release build."""
