/* Stands in for Nordic's nrfx: what nrf52840.c uses of it, and a PDM interface that asks for buffers and fills them. */
#ifndef NRF52840_H
#define NRF52840_H

#include "played.h"

#define NRF_GPIO_PIN_MAP(port, pin) ((uint32_t)(port) << 5 | (uint32_t)(pin))
#define NRF_PDM 1
#define NRF_WDT 2
#define NRF_CLOCK 3
enum { NRF_CLOCK_TASK_HFCLKSTART };
typedef enum { NRF_PDM_FREQ_1032K, NRF_PDM_FREQ_1280K } nrf_pdm_freq_t;
typedef enum { NRF_PDM_RATIO_64X, NRF_PDM_RATIO_80X } nrf_pdm_ratio_t;
enum { NRF_PDM_GAIN_MAXIMUM = 0x50 };

typedef struct {
    int p_reg;
} nrfx_pdm_t, nrfx_wdt_t;
#define NRFX_PDM_INSTANCE(reg) {reg}
#define NRFX_WDT_INSTANCE(reg) {reg}
typedef enum { NRFX_PDM_NO_ERROR, NRFX_PDM_ERROR_OVERFLOW } nrfx_pdm_error_t;
typedef struct {
    bool buffer_requested;
    int16_t *buffer_released;
    nrfx_pdm_error_t error;
} nrfx_pdm_evt_t;
typedef struct {
    uint32_t clk_pin, din_pin;
    int gain_l;
    struct {
        nrf_pdm_freq_t clock_freq;
        nrf_pdm_ratio_t ratio;
    } prescalers;
} nrfx_pdm_config_t;
#define NRFX_PDM_DEFAULT_CONFIG(clock, data) {clock, data, 0x28, {NRF_PDM_FREQ_1032K, NRF_PDM_RATIO_64X}}
typedef struct {
    uint32_t reload_value;
} nrfx_wdt_config_t;
#define NRFX_WDT_DEFAULT_CONFIG {2000}
typedef int nrfx_wdt_channel_id;
typedef void (*nrfx_pdm_event_handler_t)(const nrfx_pdm_evt_t *);

void PDM_IRQHandler(void);

static nrfx_pdm_event_handler_t stand_in_handler;
static int16_t *stand_in_buffers[2]; /* the one that is filled, and the next one */
static uint16_t stand_in_length = 0;
static bool stand_in_power = false, stand_in_crystal = false;

static inline void nrf_clock_task_trigger(int clock, int task) {
    stand_in_crystal = clock == NRF_CLOCK && task == NRF_CLOCK_TASK_HFCLKSTART;
}
static inline void nrf_gpio_cfg_output(uint32_t pin) { (void)pin; }
static inline void nrf_gpio_pin_set(uint32_t pin) { stand_in_power = pin == NRF_GPIO_PIN_MAP(1, 10); }
static inline void nrf_gpio_pin_write(uint32_t pin, uint32_t level) {
    REQUIRE(pin == NRF_GPIO_PIN_MAP(0, 26));
    show(level == 0);
}
static inline int nrfx_pdm_init(nrfx_pdm_t *pdm, const nrfx_pdm_config_t *config, nrfx_pdm_event_handler_t handler) {
    REQUIRE(config->prescalers.clock_freq == NRF_PDM_FREQ_1280K && config->prescalers.ratio == NRF_PDM_RATIO_80X);
    stand_in_handler = handler;
    return pdm->p_reg == NRF_PDM ? 0 : -1;
}
static inline int nrfx_pdm_buffer_set(nrfx_pdm_t *pdm, int16_t *buffer, uint16_t length) {
    (void)pdm;
    REQUIRE(!stand_in_buffers[1]);
    stand_in_buffers[stand_in_buffers[0] ? 1 : 0] = buffer;
    stand_in_length = length;
    return 0;
}
static inline int nrfx_pdm_start(nrfx_pdm_t *pdm) {
    const nrfx_pdm_evt_t request = {true, NULL, NRFX_PDM_NO_ERROR};
    (void)pdm;
    REQUIRE(stand_in_crystal && stand_in_power);
    stand_in_handler(&request);
    stand_in_handler(&request);
    return 0;
}
static inline void nrfx_pdm_irq_handler(nrfx_pdm_t *pdm) {
    const nrfx_pdm_evt_t full = {true, stand_in_buffers[0], NRFX_PDM_NO_ERROR};
    (void)pdm;
    stand_in_buffers[0] = stand_in_buffers[1];
    stand_in_buffers[1] = NULL;
    stand_in_handler(&full);
}
static inline int nrfx_wdt_init(nrfx_wdt_t *watchdog, const nrfx_wdt_config_t *config, void (*handler)(void),
                                void *context) {
    (void)config, (void)handler, (void)context;
    return watchdog->p_reg == NRF_WDT ? 0 : -1;
}
static inline int nrfx_wdt_channel_alloc(nrfx_wdt_t *watchdog, nrfx_wdt_channel_id *channel) {
    (void)watchdog;
    *channel = 0;
    return 0;
}
static inline void nrfx_wdt_enable(nrfx_wdt_t *watchdog) { (void)watchdog; }
static inline void nrfx_wdt_feed(const nrfx_wdt_t *watchdog) {
    (void)watchdog;
    feed();
}
static inline void __enable_irq(void) {
    for (interrupts_masked = false; parts_waiting > 0; parts_waiting--) {
        play(stand_in_buffers[0], stand_in_length * sizeof(int16_t));
        PDM_IRQHandler();
    }
}

#endif
