// Package ext is where products that build on Traefik add to its configuration; Traefik itself adds nothing.
package ext

// HTTP adds nothing.
type HTTP struct{}

// Router adds nothing.
type Router struct{}
