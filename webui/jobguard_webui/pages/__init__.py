"""The pages: a thin view each. Parse, ask one thing, answer.

Place in the house   app -> pages -> jobguard.observe, jobguard.operate
"""
