package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// DialConfig is how to reach a server. The zero value is a plaintext connection without a token.
type DialConfig struct {
	// Token is shown as the bearer token of every call. Over plaintext it goes to loopback hosts only.
	Token string
	// TLS secures the connection; a certificate that it does not trust is an UntrustedError of each call. Nil: plaintext.
	TLS *tls.Config
	// TrustNetwork lets a token travel in plaintext to other hosts too: a network that only the platform uses.
	TrustNetwork bool
	// Dialer opens the connections, for links with a delay or in memory. Nil: TCP. With it nothing resolves the target,
	// it gets the address as it is.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// Timeout is the deadline of unary calls that come without one. 0: 2 s. Negative: none.
	Timeout time.Duration
	// MaxRecvBytes is the longest answer taken, in bytes. 0: 4 MiB.
	MaxRecvBytes int
	// Unary and Stream are extra interceptors, the first outermost.
	Unary  []grpc.UnaryClientInterceptor
	Stream []grpc.StreamClientInterceptor
}

// ErrPlaintextToken refuses to send a token where others can read it.
var ErrPlaintextToken = errors.New("a bearer token over plaintext to another host: use TLS, or say that the network is trusted")

const (
	// Between the platform's regions a handshake takes up to three round trips of 0.4 s; much longer means that
	// nobody is there.
	connectTimeout = 5 * time.Second
	// The wait between attempts: a restarted node is back within a second or two.
	backoffBase, backoffMax = 50 * time.Millisecond, 2 * time.Second
	// Pings find a dead peer before a drop ends; grpc-go sends none more often than every 10 s.
	clientPingEvery, clientPingTimeout = 20 * time.Second, 5 * time.Second
	// A stream may have 256 KiB in flight: 1 MiB/s over the longest path of 0.25 s. grpc-go's own 64 KiB grows only
	// while it measures.
	streamWindow, connWindow = 256 << 10, 1 << 20
)

// Dial makes a client connection; it connects when first used. Several addresses, separated by commas, are replicas of
// one service: calls take turns over those that are connected, and a stream stays where it began. It does not retry: the
// router decides about retries. Close it when done.
func Dial(target string, cfg DialConfig) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	unary := []grpc.UnaryClientInterceptor{traceCall, defaultTimeout(cfg.Timeout)}
	stream := []grpc.StreamClientInterceptor{traceStreamCall}
	if cfg.TLS != nil {
		shaking := newHandshakes(cfg.TLS)
		creds, unary, stream = shaking, append(unary, shaking.unary), append(stream, shaking.stream)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: backoffBase, Multiplier: backoff.DefaultConfig.Multiplier,
				Jitter: backoff.DefaultConfig.Jitter, MaxDelay: backoffMax,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: clientPingEvery, Timeout: clientPingTimeout, PermitWithoutStream: true,
		}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithChainUnaryInterceptor(append(unary, cfg.Unary...)...),
		grpc.WithChainStreamInterceptor(append(stream, cfg.Stream...)...),
	}
	if cfg.MaxRecvBytes > 0 {
		options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxRecvBytes)))
	}
	replicas := strings.Split(target, ",")
	if cfg.Token != "" {
		for _, replica := range replicas {
			if cfg.TLS == nil && !cfg.TrustNetwork && !loopback(replica) {
				return nil, fmt.Errorf("dialling %s: %w", replica, ErrPlaintextToken)
			}
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer{token: cfg.Token, secure: cfg.TLS != nil}))
	}
	if cfg.Dialer != nil {
		options = append(options, grpc.WithContextDialer(cfg.Dialer))
	}
	switch {
	case len(replicas) > 1:
		options = append(options, takingTurns(replicas)...)
		target = replicaScheme + ":///" + target
	case cfg.Dialer != nil && !strings.Contains(target, ":///"):
		target = "passthrough:///" + target
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", target, err)
	}
	return conn, nil
}

const replicaScheme = "replicas"

// takingTurns spreads calls over addresses that do not change.
func takingTurns(addresses []string) []grpc.DialOption {
	static := manual.NewBuilderWithScheme(replicaScheme)
	var state resolver.State
	for _, a := range addresses {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: strings.TrimSpace(a)})
	}
	static.InitialState(state)
	return []grpc.DialOption{
		grpc.WithResolvers(static),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
	}
}

func defaultTimeout(timeout time.Duration) grpc.UnaryClientInterceptor {
	if timeout == 0 {
		timeout = defaultDeadline
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if _, ok := ctx.Deadline(); ok || timeout < 0 {
			return invoke(ctx, method, req, reply, cc, options...)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return invoke(ctx, method, req, reply, cc, options...)
	}
}

// bearer implements credentials.PerRPCCredentials.
type bearer struct {
	token  string
	secure bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return b.secure }

// loopback tells whether a target stays on this machine.
func loopback(target string) bool {
	target = strings.TrimSpace(target)
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	if _, rest, ok := strings.Cut(target, ":///"); ok {
		target = rest
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
