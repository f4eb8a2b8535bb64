package auth

import "net/http"

// RequireAuthStale is the one thing that Traefik's fork of this package adds and Traefik calls.
func (da *DigestAuth) RequireAuthStale(w http.ResponseWriter, r *http.Request) {
	da.RequireAuth(w, r)
}
