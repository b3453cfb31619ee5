from sky4cli.main import run

run()
