"""The mesh: who is a member, encrypted links between members, and spreading of opaque bytes over them.

What always holds: nothing in here knows tables; what crosses the border to the rest is bytes and `mesh.events`.
"""
