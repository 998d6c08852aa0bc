"""Who is the current user: identity sessions with the semantics of mParticle's Web SDK."""
