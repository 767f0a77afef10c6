package rpc

import (
	"context"
	"errors"
	"net"
)

// ServePublic serves gRPC, gRPC-Web and Connect over net/http until the context ends.
func (s *Server) ServePublic(ctx context.Context, lis net.Listener) error {
	return errors.New("rpc: not yet")
}
