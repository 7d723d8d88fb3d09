"""Members of a mesh: identities, certificates, enrolment, revocation and renewal."""
