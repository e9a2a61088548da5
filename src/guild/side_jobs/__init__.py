"""Side jobs: everything in the job store that is not training. Runs of the other rooms are started as their own commands and followed
through the run contract, never imported. (issue decision One job system; specs/guild.md 8.5)"""
