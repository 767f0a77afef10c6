package region

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
)

const (
	// loadTrailer carries a LoadReport with every answer of OfferService.
	loadTrailer = "rimlight-load-bin"
	// serviceSmoothing is how far back the service time looks. Routers multiply it by the queue, so its noise makes them
	// herd: smoothed over ten calls alone, a busy platform had twenty times as many late calls (rimlight sim, S1 at 90 %). Over a
	// whole second, a region that slows down tells it too late: a fifth more late calls (S3).
	serviceSmoothing = 500 * time.Millisecond
	// serviceWeight is the most that one call may change of it, when calls are rare.
	serviceWeight = 0.1
	// A node that nobody calls learns nothing of itself, so after idleAfter its service time fades by half every fadeHalf:
	// routers that left it in a bad moment would never come back to see that the moment is over. While it lasts, the price is
	// a late call each time that they look.
	idleAfter = time.Second
	fadeHalf  = 2 * time.Second
	// arrivalSmoothing is how far back the arrival rate looks: two probes of a router.
	arrivalSmoothing = 2 * time.Second
)

// load accounts the unary calls inside the node. Streams wait nearly always, so they count as an arrival only.
type load struct {
	parallelism int

	mu       sync.Mutex
	inFlight int
	service  time.Duration // smoothed
	served   time.Time     // when it last changed
	arrivals meter
}

func newLoad(parallelism int) *load {
	return &load{parallelism: parallelism, arrivals: meter{smoothing: arrivalSmoothing}}
}

func (l *load) arrive(now time.Time, work int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if faded := l.faded(now); faded < l.service {
		l.service, l.served = faded, now
	}
	l.inFlight += work
	l.arrivals.add(now)
}

// faded is the service time as it is believed now. Needs the mutex.
func (l *load) faded(now time.Time) time.Duration {
	idle := now.Sub(l.served) - idleAfter
	if l.inFlight > 0 || idle <= 0 {
		return l.service
	}
	return time.Duration(float64(l.service) * math.Exp2(-idle.Seconds()/fadeHalf.Seconds()))
}

func (l *load) leave(now time.Time, residence time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// With more calls inside than are worked on at a time, the rest of the residence was queueing.
	busy := residence
	if l.inFlight > l.parallelism {
		busy = residence * time.Duration(l.parallelism) / time.Duration(l.inFlight)
	}
	l.inFlight--
	if l.service == 0 {
		l.service = busy
	} else {
		a := min(1-math.Exp(-now.Sub(l.served).Seconds()/serviceSmoothing.Seconds()), serviceWeight)
		l.service += time.Duration(a * float64(busy-l.service))
	}
	l.served = now
}

// busy tells whether a unary call is inside the node.
func (l *load) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight > 0
}

func (l *load) report(now time.Time, residence time.Duration) *regionv1.LoadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &regionv1.LoadReport{
		Residence: durationpb.New(residence), ServiceTime: durationpb.New(l.faded(now)), InFlight: uint32(l.inFlight),
		Parallelism: uint32(l.parallelism), ArrivalsPerSecond: l.arrivals.value(now),
	}
}

// trailer is the report as metadata.
func (l *load) trailer(now time.Time, residence time.Duration) metadata.MD {
	raw, err := proto.Marshal(l.report(now, residence))
	if err != nil {
		panic("region: a LoadReport does not encode: " + err.Error()) // numbers always do
	}
	return metadata.Pairs(loadTrailer, string(raw))
}

func viewerMethod(fullMethod string) bool {
	return strings.HasPrefix(fullMethod, "/"+offerv1.OfferService_ServiceDesc.ServiceName+"/")
}

// UnaryInterceptor accounts the calls of OfferService and answers each with the node's load in its trailer. It goes
// outermost, so that what it calls residence is all of it.
func (n *Node) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !viewerMethod(info.FullMethod) {
			return handler(ctx, request)
		}
		begin := time.Now()
		n.load.arrive(begin, 1)
		answer, err := any(nil), n.toStatus(n.drill.strike(ctx))
		if err == nil {
			answer, err = handler(ctx, request)
		}
		end := time.Now()
		n.load.leave(end, end.Sub(begin))
		// A transport without trailers (a plain function call) says no: then nobody is there to read it.
		_ = grpc.SetTrailer(ctx, n.load.trailer(end, end.Sub(begin)))
		return answer, err
	}
}

// StreamInterceptor does what UnaryInterceptor does for streams, whose residence says nothing and is left out.
func (n *Node) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !viewerMethod(info.FullMethod) {
			return handler(server, stream)
		}
		n.load.arrive(time.Now(), 0)
		err := n.toStatus(n.drill.strike(stream.Context()))
		if err == nil {
			err = handler(server, stream)
		}
		stream.SetTrailer(n.load.trailer(time.Now(), 0))
		return err
	}
}
