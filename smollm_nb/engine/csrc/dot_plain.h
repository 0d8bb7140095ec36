// Plain C: what every other variant must agree with.
#define SM_VARIANT "plain"
#define SM_QUADS   0
#define SM_BIAS    128
#define SM_TOKENS  4

#include "dot_emulated.h"
