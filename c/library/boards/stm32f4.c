/* STM32F411: prints the words that an I2S microphone picks up, and lights an LED for a second at the first of them.
 * With the HAL. On other families start_clocks and start_microphone differ; SAI gives CAPTURE_24_IN_32 with 32 bits.
 *
 * On a Nucleo-F411RE a microphone such as INMP441 or ICS-43434: SCK at PB13, WS at PB12, SD at PB15, L/R at GND, VDD at
 * 3.3 V. Words go to USART2, the ST-LINK's serial port, at 115,200 baud. The LED is LD2, PA5.
 * stm32f4xx_hal_conf.h must enable DMA, I2S, IWDG and UART beside what HAL_Init needs. */
#include <stdio.h>

#include "capture.h"
#include "kws_detect.h"
#include "stm32f4xx_hal.h"

#define RATE 48000 /* of the microphone; 16000 for one that goes so low, with FRAMES 320 */
#define FRAMES 960 /* in half the buffer, 20 ms; what takes longer than that loses samples */
#define SAMPLES (FRAMES * KWS_SAMPLE_RATE / RATE)
#define GAIN (8 * CAPTURE_UNITY) /* so that speech is as loud as in the recordings of training */

#if KWS_SAMPLE_RATE != 16000
#error capture.c gives 16 kHz
#endif

/* [half][frame][slot][upper and lower bits]; on an F7 or H7, in memory that is not cached */
static uint16_t buffer[2][FRAMES][2][2];
static capture_halves halves;
static I2S_HandleTypeDef microphone;
static DMA_HandleTypeDef transfer;
static UART_HandleTypeDef serial;
static IWDG_HandleTypeDef watchdog;

void SysTick_Handler(void) { HAL_IncTick(); }
void DMA1_Stream3_IRQHandler(void) { HAL_DMA_IRQHandler(&transfer); }
void HAL_I2S_RxHalfCpltCallback(I2S_HandleTypeDef *from) { halves.full += from == &microphone; }
void HAL_I2S_RxCpltCallback(I2S_HandleTypeDef *from) { halves.full += from == &microphone; }

/* printf calls this. */
int _write(int file, char *text, int length) {
    (void)file;
    HAL_UART_Transmit(&serial, (uint8_t *)text, (uint16_t)length, 100);
    return length;
}

/* Stop if a call failed: a debugger shows which. */
static void must(HAL_StatusTypeDef status) { while (status != HAL_OK) continue; }

/* 84 MHz, and 76.8 MHz for I2S, 25 times 48,000 frames of 64 bits, 75 times 16,000; both from the inner oscillator. */
static void start_clocks(void) {
    RCC_OscInitTypeDef oscillator = {.OscillatorType = RCC_OSCILLATORTYPE_HSI, .HSIState = RCC_HSI_ON};
    oscillator.HSICalibrationValue = RCC_HSICALIBRATION_DEFAULT;
    oscillator.PLL = (RCC_PLLInitTypeDef){RCC_PLL_ON, RCC_PLLSOURCE_HSI, 16, 336, RCC_PLLP_DIV4, 7};
    must(HAL_RCC_OscConfig(&oscillator));
    RCC_ClkInitTypeDef clocks = {.SYSCLKSource = RCC_SYSCLKSOURCE_PLLCLK, .APB1CLKDivider = RCC_HCLK_DIV2};
    clocks.ClockType = RCC_CLOCKTYPE_SYSCLK | RCC_CLOCKTYPE_PCLK1;
    must(HAL_RCC_ClockConfig(&clocks, FLASH_LATENCY_2));
    RCC_PeriphCLKInitTypeDef audio = {.PeriphClockSelection = RCC_PERIPHCLK_I2S};
    audio.PLLI2S.PLLI2SM = 16;
    audio.PLLI2S.PLLI2SN = 384;
    audio.PLLI2S.PLLI2SR = 5;
    must(HAL_RCCEx_PeriphCLKConfig(&audio));
}

static void start_pins(void) {
    __HAL_RCC_GPIOA_CLK_ENABLE();
    __HAL_RCC_GPIOB_CLK_ENABLE();
    GPIO_InitTypeDef led = {.Pin = GPIO_PIN_5, .Mode = GPIO_MODE_OUTPUT_PP};
    GPIO_InitTypeDef uart = {.Pin = GPIO_PIN_2, .Mode = GPIO_MODE_AF_PP, .Alternate = GPIO_AF7_USART2};
    GPIO_InitTypeDef i2s = {.Mode = GPIO_MODE_AF_PP, .Alternate = GPIO_AF5_SPI2};
    i2s.Pin = GPIO_PIN_12 | GPIO_PIN_13 | GPIO_PIN_15;
    HAL_GPIO_Init(GPIOA, &led);
    HAL_GPIO_Init(GPIOA, &uart);
    HAL_GPIO_Init(GPIOB, &i2s);
    __HAL_RCC_USART2_CLK_ENABLE();
    serial.Instance = USART2;
    serial.Init.BaudRate = 115200;
    serial.Init.Mode = UART_MODE_TX;
    must(HAL_UART_Init(&serial));
    setvbuf(stdout, NULL, _IONBF, 0); /* words are sent at once */
}

static void start_microphone(void) {
    __HAL_RCC_DMA1_CLK_ENABLE();
    __HAL_RCC_SPI2_CLK_ENABLE();
    transfer.Instance = DMA1_Stream3;
    transfer.Init.Channel = DMA_CHANNEL_0;
    transfer.Init.Direction = DMA_PERIPH_TO_MEMORY;
    transfer.Init.MemInc = DMA_MINC_ENABLE;
    transfer.Init.PeriphDataAlignment = DMA_PDATAALIGN_HALFWORD;
    transfer.Init.MemDataAlignment = DMA_MDATAALIGN_HALFWORD;
    transfer.Init.Mode = DMA_CIRCULAR;
    must(HAL_DMA_Init(&transfer));
    __HAL_LINKDMA(&microphone, hdmarx, transfer);
    HAL_NVIC_EnableIRQ(DMA1_Stream3_IRQn);
    microphone.Instance = SPI2;
    microphone.Init.Mode = I2S_MODE_MASTER_RX;
    microphone.Init.Standard = I2S_STANDARD_PHILIPS;
    microphone.Init.DataFormat = I2S_DATAFORMAT_24B;
    microphone.Init.AudioFreq = RATE;
    microphone.Init.ClockSource = I2S_CLOCK_PLL;
    must(HAL_I2S_Init(&microphone));
    must(HAL_I2S_Receive_DMA(&microphone, buffer[0][0][0], 2 * FRAMES * 2)); /* samples of both halves and slots */
}

int main(void) {
    static capture from_microphone;
    static kws_detector detector;
    static int16_t samples[SAMPLES + 1];
    kws_detection found;
    int32_t light = 0;
    uint32_t overruns = 0;
    HAL_Init();
    start_clocks();
    start_pins();
    capture_start(&from_microphone, CAPTURE_24_HALVES, RATE, 2, GAIN);
    kws_detect_start(&detector, KWS_NORMAL);
    start_microphone();
    watchdog.Instance = IWDG;
    watchdog.Init = (IWDG_InitTypeDef){IWDG_PRESCALER_32, 1000}; /* a second */
    must(HAL_IWDG_Init(&watchdog));
    for (;;) {
        /* Without interrupts, so that none comes between the check and WFI, which it wakes all the same. */
        __disable_irq();
        if (halves.full == halves.taken) __WFI();
        __enable_irq();
        HAL_IWDG_Refresh(&watchdog);
        if (halves.full == halves.taken) continue; /* it was another interrupt */
        const int32_t count = capture_samples(&from_microphone, buffer[halves.taken % 2], FRAMES, samples);
        const uint32_t lost = capture_taken(&halves);
        if (lost) {
            kws_gap(&detector, lost * SAMPLES);
            printf("%lu overruns\n", (unsigned long)++overruns);
            continue;
        }
        kws_push(&detector, samples, count);
        light -= light < count ? light : count;
        while (kws_next(&detector, &found) == KWS_DETECTED) {
            const uint64_t milliseconds = found.sample / (KWS_SAMPLE_RATE / 1000);
            printf("%lu ms  %s\n", (unsigned long)milliseconds, kws_labels[found.label]);
            if (found.label == KWS_FIRST_WORD) light = KWS_SAMPLE_RATE;
        }
        HAL_GPIO_WritePin(GPIOA, GPIO_PIN_5, light > 0 ? GPIO_PIN_SET : GPIO_PIN_RESET);
    }
}
