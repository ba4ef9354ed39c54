"""`edgeslm demo`: a factory that talks, a broker, the exporter and the agent, in one minute.

Nothing else imports this package. The exporter and the agent run as processes of their own,
exactly as a user would start them.
"""
