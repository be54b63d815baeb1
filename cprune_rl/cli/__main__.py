from cprune_rl.cli.app import main

main()
