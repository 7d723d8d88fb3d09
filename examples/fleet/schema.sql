CREATE TABLE IF NOT EXISTS drones(
    id TEXT PRIMARY KEY, model TEXT, deployed_at INTEGER, lat REAL, lon REAL, position_at INTEGER, battery INTEGER, battery_at INTEGER);
CREATE TABLE IF NOT EXISTS readings(drone TEXT, n INTEGER, kind TEXT, value REAL, at INTEGER, PRIMARY KEY(drone, n));
CREATE TABLE IF NOT EXISTS threats(id TEXT PRIMARY KEY, kind TEXT, lat REAL, lon REAL, level INTEGER, at INTEGER);
CREATE TABLE IF NOT EXISTS missions(id TEXT PRIMARY KEY, drone TEXT, what TEXT, status TEXT, at INTEGER);
